"""A resource outside of Rookery that checks fencing tokens: accounts in SQLite."""
