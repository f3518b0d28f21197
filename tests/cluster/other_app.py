"""Another program under the id of counting_app."""

import os

from rookery import Agent, App


class Stranger(Agent):
    pass


app = App(os.environ["COUNTING_APP"], agents=[Stranger], partitions=4)
