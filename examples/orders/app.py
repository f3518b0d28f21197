"""`faust -A examples.orders.app worker`; then `faust -A examples.orders.app ask Order/1 '{...}' --type Place`."""

from examples.orders.agents import Order, Stock
from rookery import App

app = App("orders", agents=[Order, Stock])
