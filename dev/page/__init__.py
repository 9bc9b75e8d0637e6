"""The development server: the page, the API behind it, and a panel that kills processes.

`make up` starts it on 127.0.0.1, as a program of the supervisor. It is in no image, compose file
or chart.
"""

# In the state folder.
TOKEN_FILE = "page.token"  # noqa: S105 - the name of a file
