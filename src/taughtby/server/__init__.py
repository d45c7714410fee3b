"""The page served on loopback: sessions, jobs, access."""
