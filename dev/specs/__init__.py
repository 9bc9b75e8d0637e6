"""Write the specifications of the HTTP API and of the bus, and fetch their viewer."""
