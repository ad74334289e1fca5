"""Messages in, text out: one way to talk to every model."""
