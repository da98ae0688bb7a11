"""How the page looks to gradio's own widgets: the house's colours, from glass and brass.

The same colours are named in static/vitrine.css; this room hands them to gradio.
"""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils import colors

GLASS = colors.Color(
    name="glass",
    c50="#eef7f5",
    c100="#d5ebe7",
    c200="#aedad3",
    c300="#7fc3ba",
    c400="#4fa79d",
    c500="#2b8a80",
    c600="#176f66",
    c700="#135a53",
    c800="#124843",
    c900="#103c38",
    c950="#06211f",
)

STONE = colors.Color(
    name="stone",
    c50="#faf9f6",
    c100="#f3f1ec",
    c200="#e6e3db",
    c300="#d0ccc1",
    c400="#a09e95",
    c500="#737570",
    c600="#565b58",
    c700="#39413f",
    c800="#222927",
    c900="#171c1b",
    c950="#0f1312",
)


def theme() -> gr.themes.Base:
    """Calm surfaces, thin lines, one accent; fonts that lie on this machine."""
    return gr.themes.Base(
        primary_hue=GLASS,
        secondary_hue=GLASS,
        neutral_hue=STONE,
        # gradio's own SemiBold is cut down to a few letters.
        font=[
            gr.themes.LocalFont("IBM Plex Sans", (400, 700)),
            "ui-sans-serif",
            "system-ui",
            "sans-serif",
        ],
        font_mono=[gr.themes.LocalFont("IBM Plex Mono", (400, 700)), "ui-monospace", "monospace"],
        radius_size=gr.themes.sizes.radius_md,
    ).set(
        body_background_fill="var(--v-wall)",
        body_background_fill_dark="var(--v-wall)",
        body_text_color="var(--v-ink)",
        body_text_color_dark="var(--v-ink)",
        body_text_color_subdued="var(--v-muted)",
        body_text_color_subdued_dark="var(--v-muted)",
        background_fill_primary="var(--v-paper)",
        background_fill_primary_dark="var(--v-paper)",
        background_fill_secondary="var(--v-wall)",
        background_fill_secondary_dark="var(--v-wall)",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_shadow="none",
        block_shadow_dark="none",
        block_padding="0px",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_title_text_color="var(--v-ink)",
        block_title_text_color_dark="var(--v-ink)",
        block_title_text_weight="500",
        block_title_text_size="0.875rem",
        block_info_text_color="var(--v-muted)",
        block_info_text_color_dark="var(--v-muted)",
        block_info_text_size="0.8125rem",
        border_color_primary="var(--v-line)",
        border_color_primary_dark="var(--v-line)",
        input_background_fill="var(--v-paper)",
        input_background_fill_dark="var(--v-paper)",
        input_border_color="var(--v-line)",
        input_border_color_dark="var(--v-line)",
        input_border_color_focus="var(--v-glass)",
        input_border_color_focus_dark="var(--v-glass)",
        input_border_width="1px",
        input_border_width_dark="1px",
        input_shadow="none",
        input_shadow_focus="0 0 0 3px var(--v-halo)",
        input_shadow_focus_dark="0 0 0 3px var(--v-halo)",
        slider_color="var(--v-glass)",
        slider_color_dark="var(--v-glass)",
        button_primary_background_fill="var(--v-glass)",
        button_primary_background_fill_dark="var(--v-glass)",
        button_primary_background_fill_hover="var(--v-glass-strong)",
        button_primary_background_fill_hover_dark="var(--v-glass-strong)",
        button_primary_text_color="var(--v-on-glass)",
        button_primary_text_color_dark="var(--v-on-glass)",
        button_primary_border_color="transparent",
        button_primary_border_color_dark="transparent",
        button_secondary_background_fill="var(--v-paper)",
        button_secondary_background_fill_dark="var(--v-paper)",
        button_secondary_border_color="var(--v-line)",
        button_secondary_border_color_dark="var(--v-line)",
        button_large_radius="10px",
        layout_gap="14px",
    )
