"""Flash: several tokens per forward of a drafter that sees an image as a few latents."""
