"""FiRST: routers look at the prompt and choose the layers that its answer is written with."""
