"""The contract suite's agents as an application, for a real worker."""

import os

from rookery import App
from tests.contract.fleet import FLEET

app = App(os.environ.get("ROOKERY_APP_ID", "contract"), agents=FLEET, partitions=4)
