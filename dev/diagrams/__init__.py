"""Renders docs/diagrams with a pinned mermaid-cli, and finds outdated pictures."""
