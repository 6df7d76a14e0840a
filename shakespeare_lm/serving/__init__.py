"""a model and requests -> completions over HTTP, as clients of OpenAI's API expect them."""
