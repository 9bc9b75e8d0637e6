"""HTTP/1.1: connections, requests and responses as bytes.

A request passes each module once:

1. `http.server` accepts a connection and limits their number.
2. `http.connection` reads a request and drives the steps below. None of them calls it back.
3. `http.parser` parses the head: request line, headers, framing.
4. `gateway.dispatcher` finds route, user and client by the head. It rejects most invalid requests
   before their body is read. Documents and health need no further step.
5. `http.body` finds the end of the body.
6. `gateway.routes` validates body, query and key, and runs the handler in a worker.
7. `gateway.service`, the handler, calls another service.
8. `http.responses` encodes the response. An error in any step is a `gateway.problems.Problem`.
"""
