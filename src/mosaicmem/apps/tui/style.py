"""How it is laid out: from 80x24 upwards; where there is more room, pictures get it."""

from textual.theme import Theme

HIGH_CONTRAST = Theme(
    name="high-contrast",
    primary="#ffff00",
    secondary="#00ffff",
    accent="#00ffff",
    warning="#ffff00",
    error="#ff7777",
    success="#55ff55",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#000000",
    boost="#000000",
    dark=True,
    luminosity_spread=0.0,
    text_alpha=1.0,
    variables={
        "text-muted": "#ffffff",
        "text-disabled": "#ffffff",
        "border": "#ffff00",
        "border-blurred": "#ffffff",
        "block-cursor-background": "#ffff00",
        "block-cursor-foreground": "#000000",
        "block-cursor-text-style": "bold",
        "block-cursor-blurred-background": "#ffffff",
        "block-cursor-blurred-foreground": "#000000",
        "input-cursor-background": "#ffff00",
        "input-cursor-foreground": "#000000",
        "input-selection-background": "#0000aa",
        "scrollbar": "#ffffff",
        "scrollbar-hover": "#ffff00",
        "scrollbar-active": "#ffff00",
        "scrollbar-background": "#000000",
        "scrollbar-background-hover": "#000000",
        "scrollbar-background-active": "#000000",
    },
)
"""White and yellow on black: for whoever sees little, and for terminals of 16 colours."""

CSS = """
Screen { layout: vertical; }
#title { background: $primary; color: $text; text-style: bold; }
#hints { background: $panel; }
#title, #hints { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
#tabs { height: 1fr; }
Tab { color: $text-muted; }
Tab.-active { color: $text; text-style: bold; }
TabPane { padding: 0; }
Pipeline, Coverage, MemoryOps { height: 1fr; }
#pictures-now { width: 1fr; }
#around { width: 1fr; padding: 0 0 0 1; }
#frame { height: 2fr; }
#mosaic { height: 1fr; border-top: solid $primary; border-title-color: $text; }
#cloud { height: 1fr; min-height: 6; background: #101010; }
#stats { height: 6; text-wrap: nowrap; text-overflow: ellipsis; }
Pipeline.-coloured #stats { height: 7; }
#growth { height: 1; }
#log { height: 1fr; border-top: solid $primary; scrollbar-size-vertical: 1; background: $background; }
.-low #mosaic, Pipeline.-alone #mosaic { display: none; }
.-low #log { height: 4; }
.-wide #pictures-now { width: 5fr; }
.-wide #around { width: 4fr; }
.-high #cloud { height: 2fr; }
Pipeline.-frame #around { display: none; }
Pipeline.-cloud #pictures-now { display: none; }
#frames { width: 48; }
#summary { height: 2; padding: 0 1; }
#look { width: 1fr; padding: 0 0 0 1; }
#back { height: 1fr; }
#why { height: auto; max-height: 8; }
#stages, #pace, #bench-title, #bench-result { padding: 0 1; height: auto; }
#stages, #pace { margin-bottom: 1; }
#bench-result { width: auto; text-wrap: nowrap; }
#bench-title { text-style: bold; }
#bench-progress { margin: 0 1; }
#groups { width: 51; overflow-x: hidden; scrollbar-size-vertical: 1; }
#scenes { width: 1fr; padding: 0 1; }
#kept { display: none; }
.-wide #scenes { width: 36; }
.-wide #kept { display: block; width: 1fr; border-left: solid $primary; }
#chosen { height: auto; text-style: bold; }
#worlds { height: auto; }
ModalScreen { align: center middle; background: $background 60%; }
.dialog { width: 90%; max-width: 100; height: 90%; max-height: 40; padding: 0 1; }
.dialog { border: round $primary; background: $surface; }
.small { height: auto; max-height: 90%; }
.small OptionList { height: auto; max-height: 12; }
#keys { width: 1fr; height: auto; }
#pictures { height: 1fr; }
#before, #after { width: 1fr; height: 1fr; }
#before { margin-right: 1; }
#effect { height: 2; }
#usage { height: auto; max-height: 2; color: $text-muted; }
.row { height: 1; }
.row Label { width: 15; }
.row Input { width: 15; margin-right: 1; }
.row .words { width: 1fr; color: $text-muted; text-wrap: nowrap; text-overflow: ellipsis; }
#rows { height: auto; margin: 1 0; }
#wrong { height: auto; max-height: 3; }
"""
