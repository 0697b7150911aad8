"""An OpenAI-compatible server in which every request chooses its method, and a page to play with it."""
