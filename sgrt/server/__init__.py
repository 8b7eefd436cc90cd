"""`sgrt serve`: the engine behind the HTTP interfaces of OpenAI, SGLang and vLLM."""
