"""Chimera: drafts from the last three tokens fused with every hidden state of the text."""
