"""What the HTML helpers write, into pages and into templates."""

from html.parser import HTMLParser

import jinja2
import pytest
from django.template import Context, Engine

from server_session.csrf.html import Html, csrf_input, csrf_meta, csrf_script

HOSTILE = (
    '"><script>alert(1)</script>',
    "' onfocus='alert(1)",
    "a\nb\tc\x00",
    "&quot;&#34;",
    "</script><!--",
    "{{ 7 * 7 }}{% x %}",
    "é\u2028\U0001f511",
)

Element = tuple[str, dict[str, str | None]]


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader


class TestInput:
    def test_it_is_a_hidden_input_with_the_token(self):
        assert csrf_input("t0ken-_") == '<input type="hidden" name="csrf_token" value="t0ken-_">'

    @pytest.mark.parametrize("hostile", HOSTILE)
    def test_no_field_and_no_token_leaves_its_attribute(self, hostile):
        reader = read(csrf_input(hostile, field=hostile))

        assert reader.elements == [("input", {"type": "hidden", "name": hostile, "value": hostile})]
        assert reader.text == ""


class TestMeta:
    def test_it_tells_the_script_token_header_and_field(self):
        attributes = {
            "name": "csrf-token",
            "content": "t0ken",
            "data-header": "X-CSRF-Token",
            "data-field": "csrf_token",
        }

        assert read(csrf_meta("t0ken")).elements == [("meta", attributes)]

    def test_it_tells_the_script_that_tokens_pass_once(self):
        (element,) = read(csrf_meta("t0ken", single_use=True)).elements

        assert "data-single-use" in element[1]

    @pytest.mark.parametrize("hostile", HOSTILE)
    def test_no_setting_leaves_its_attribute(self, hostile):
        reader = read(csrf_meta(hostile, hostile, hostile))

        attributes = {"name": "csrf-token", "content": hostile, "data-header": hostile, "data-field": hostile}
        assert reader.elements == [("meta", attributes)]
        assert reader.text == ""


class TestScript:
    def test_it_is_one_script_element_that_nothing_in_it_ends_early(self):
        reader = read(csrf_script())

        assert reader.elements == [("script", {})]
        assert csrf_script() == f"<script>{reader.text}</script>"
        # HTML, "restrictions for contents of script elements".
        assert not any(word in reader.text.lower() for word in ("<!--", "<script", "</script"))

    def test_it_is_ascii_so_that_a_page_in_any_encoding_can_have_it(self):
        assert csrf_script().isascii()

    def test_it_bears_the_nonce(self):
        assert csrf_script("r4nd0m==").startswith('<script nonce="r4nd0m==">')

    @pytest.mark.parametrize("hostile", HOSTILE)
    def test_no_nonce_leaves_its_attribute(self, hostile):
        reader = read(csrf_script(nonce=hostile))

        assert reader.elements == [("script", {"nonce": hostile})]
        assert reader.text == read(csrf_script()).text


class TestTemplates:
    HELPERS = (csrf_input('a"b'), csrf_meta('a"b'), csrf_script('a"b'))

    @pytest.mark.parametrize("html", HELPERS)
    def test_jinja2_inserts_it_as_it_is(self, html):
        template = jinja2.Environment(autoescape=True).from_string("<form>{{ html }}</form>")

        assert template.render(html=html) == f"<form>{html}</form>"

    @pytest.mark.parametrize("html", HELPERS)
    def test_django_inserts_it_as_it_is(self, html):
        template = Engine(debug=False).from_string("<form>{{ html }}</form>")

        assert template.render(Context({"html": html})) == f"<form>{html}</form>"

    def test_what_is_made_from_it_is_escaped_again(self):
        template = jinja2.Environment(autoescape=True).from_string("{{ html }}")

        assert template.render(html=Html("<b>") + "<i>") == "&lt;b&gt;&lt;i&gt;"
        assert template.render(html=f"{Html('<b>')}") == "&lt;b&gt;"


class TestMistakes:
    def test_a_token_that_was_not_awaited_is_named(self):
        async def get_csrf_token() -> str:
            return "t0ken"

        coroutine = get_csrf_token()
        try:
            with pytest.raises(TypeError, match="token is text, not coroutine; await get_csrf_token"):
                csrf_input(coroutine)
        finally:
            coroutine.close()

    @pytest.mark.parametrize(
        "write",
        [
            lambda: csrf_input(None),
            lambda: csrf_input("t0ken", field=7),
            lambda: csrf_meta(b"t0ken"),
            lambda: csrf_meta("t0ken", header=None),
            lambda: csrf_script(nonce=b"r4nd0m"),
        ],
    )
    def test_what_is_no_text_is_a_clear_error(self, write):
        with pytest.raises(TypeError, match="is text, not"):
            write()
