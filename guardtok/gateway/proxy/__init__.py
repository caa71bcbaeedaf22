"""`guardtok serve`: a reverse proxy whose every request passes the middleware, and the process that runs it.

The proxy itself decides nothing about texts. It must not undo what the middleware decided: it sends exactly the path
that was judged, keeps no cookie, follows no redirect, and never makes a broken answer look whole.
"""
