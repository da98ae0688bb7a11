"""`/sdapi/v1`: A1111's interface, so that its clients find what they know. JSON to requests and
answers, and nothing else: what a picture is made of is not decided here."""

from webui.sdapi.routes import closed, routes

__all__ = ["closed", "routes"]
