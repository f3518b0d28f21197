"""What travels: envelopes, addresses, payloads, journal records, errors. Imports no other room."""
