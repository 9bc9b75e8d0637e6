"""What makes pictures of docs/diagrams: mermaid-cli, pinned, and what tells whether they are up to date."""
