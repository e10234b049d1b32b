"""Serving many requests at once: a trace, two schedulers, and an OpenAI-compatible server."""
