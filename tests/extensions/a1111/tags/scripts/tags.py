from fastapi import FastAPI
from modules import script_callbacks, shared

words = ["1girl", "landscape"]


def on_ui_settings():
    section = ("tags", "Tags")
    shared.opts.add_option("tags_limit", shared.OptionInfo(1, "How many", section=section))


def on_app_started(demo, app: FastAPI):
    @app.get("/tags/all/{begun}")
    async def all_tags(begun: str):
        found = [word for word in words if word.startswith(begun)]
        return {"tags": found[: shared.opts.tags_limit]}


script_callbacks.on_ui_settings(on_ui_settings)
script_callbacks.on_app_started(on_app_started)
