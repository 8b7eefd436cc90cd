"""The language: programs, what they are written with, and how they run."""
