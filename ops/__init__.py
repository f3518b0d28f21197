"""What keeps it alive: settings, metrics, locks, weights, local servers. Imports only schemas of ours."""
