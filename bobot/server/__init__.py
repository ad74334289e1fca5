"""The HTTP server: OpenAI's, Anthropic's and Ollama's APIs over one protocol (chat/protocol.py).

app.py puts the routes together; door.py stands before them; models.py holds what is served. Each
API has a file for its requests and one for its answers.
"""
