"""Servers: policies over the openpi websocket protocol, predictors over HTTP."""
