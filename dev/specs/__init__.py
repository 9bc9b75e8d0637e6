"""What writes the specifications of the HTTP API and of the bus, and what shows them."""
