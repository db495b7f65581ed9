"""How it is laid out: from 80x24 upwards; where there is more room, pictures get it."""

CSS = """
Screen { layout: vertical; }
#title { background: $primary; color: $text; text-style: bold; }
#hints { background: $panel; }
#title, #hints { height: 1; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
#tabs { height: 1fr; }
TabPane { padding: 0; }
Pipeline, Coverage, MemoryOps { height: 1fr; }
#pictures-now { width: 1fr; }
#around { width: 1fr; padding: 0 0 0 1; }
#frame { height: 2fr; }
#mosaic { height: 1fr; border-top: solid $primary; border-title-color: $text-muted; }
#cloud { height: 1fr; min-height: 6; }
#stats { height: 6; text-wrap: nowrap; text-overflow: ellipsis; }
#growth { height: 1; }
#log { height: 1fr; border-top: solid $primary; scrollbar-size-vertical: 1; background: $background; }
.-low #mosaic, Pipeline.-alone #mosaic { display: none; }
.-low #log { height: 4; }
.-wide #pictures-now { width: 5fr; }
.-wide #around { width: 4fr; }
.-high #cloud { height: 2fr; }
Pipeline.-frame #around { display: none; }
Pipeline.-cloud #pictures-now { display: none; }
#frames { width: 46; }
#summary { height: 2; padding: 0 1; }
#look { width: 1fr; padding: 0 0 0 1; }
#back { height: 1fr; }
#why { height: auto; max-height: 8; }
#stages, #pace, #bench-title, #bench-result { padding: 0 1; height: auto; }
#stages, #pace { margin-bottom: 1; }
#bench-title { text-style: bold; }
#bench-progress { margin: 0 1; }
#groups { width: 50; }
#scenes { width: 1fr; padding: 0 1; }
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
"""
