"""a model and requests -> completions over HTTP, as clients of OpenAI's API speak it: continuous
batching in one thread, and a small web application in front of it.
"""
