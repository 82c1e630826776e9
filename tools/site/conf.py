"""Sphinx's settings for the site. The pages come from pages.py."""

from docutils.nodes import make_id

project = "Celery, one refactor at a time"
html_title = project
language = "en"

extensions = ["myst_parser", "sphinx_copybutton"]
# A link may lead to any heading of a page.
myst_heading_anchors = 3
myst_slug_func = make_id

html_theme = "furo"
html_favicon = "icon.svg"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_use_index = False
html_copy_source = False
html_show_copyright = False
pygments_dark_style = "a11y-high-contrast-dark"
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#2f6b1f",
        "color-brand-content": "#2b6419",
        "removed": "#fff0ee",
        "removed-word": "#ffd3ce",
        "added": "#ecfaef",
        "added-word": "#c4efcd",
        "nothing": "#f4f5f6",
    },
    "dark_css_variables": {
        "color-brand-primary": "#9bd17f",
        "color-brand-content": "#9bd17f",
        "removed": "#3a1d1f",
        "removed-word": "#6b2a2d",
        "added": "#15301d",
        "added-word": "#22572f",
        "nothing": "#1d1f22",
    },
}

# What is typed is copied, without the prompt; a log, a list and a difference are for reading.
copybutton_selector = "div:is(.highlight-console, .highlight-pycon, .highlight-python) pre"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
