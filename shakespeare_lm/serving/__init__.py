"""Completions over HTTP, in the form that clients of OpenAI's API expect."""
