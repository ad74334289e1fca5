"""Modules and attention contexts that two model families or more share."""
