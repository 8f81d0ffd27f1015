"""μ0: a query-conditioned trace world model (mu0-paper §3, App. B)."""
