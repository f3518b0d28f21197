"""The application: `faust -A examples.flights.app worker -l info`, in as many terminals as you like."""

import os

from examples.flights.agents import Airport, Carrier, Plane
from rookery import App

NAME = "flights"

app = App(os.environ.get("ROOKERY_APP_ID") or NAME, agents=[Plane, Carrier, Airport])
