"""Programs read from their source: what `Program.compile` gives."""
