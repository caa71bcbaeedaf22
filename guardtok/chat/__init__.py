"""Chat templates: a conversation → the prompt that a template makes of it, each character under its own source."""
