"""The served page: HTTP application, session, jobs and access."""
