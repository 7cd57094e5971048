"""A page of HTML, whole: of the course (`site`), and of a class (`classroom`)."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>{head}
</head>
<body>
{above}<main>
{body}
</main>
{below}</body>
</html>
"""


def page(title, style, body, head="", above="", below=""):
    """Return the page.  title and all else are HTML; style is CSS; above and below stand around the text."""
    return PAGE.format(title=title, style=style, head=head, above=above, body=body, below=below)
