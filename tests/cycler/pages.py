"""What tests read from an HTML page."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "input", "link", "rect", "use", "path"}


class Page(HTMLParser):
    """Collects what a page refers to, its ids and its text; complains about tags that are not closed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.ids, self.references, self.text = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href"):
                self.references.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())
