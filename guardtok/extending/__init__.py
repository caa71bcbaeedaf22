"""New tokens in a vocabulary: checked before they are built and after, compared over libraries, written for others."""
