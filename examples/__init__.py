"""Programs that use Rookery as its users do: through the import name `rookery`."""
