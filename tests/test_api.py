import asyncio
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from types import MappingProxyType, SimpleNamespace
from typing import Any, TypedDict, get_overloads

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

import server_session
from server_session import (
    CarrierError,
    DataTypeError,
    FileSessionStore,
    MemorySessionStore,
    NoResponseError,
    SerializationError,
    Sessions,
    StoreError,
    _sessions,
    configure,
    sync,
)
from server_session.adapters import headers_of
from server_session.http.carrier import current
from server_session.http.requests import AsgiRequest
from tests.asgi_client import scope_of
from tests.visitors import Clock, Watched

FUNCTIONS = (
    "get_session_data",
    "is_alive",
    "set_session_data",
    "update_session_data",
    "replace_session_data",
    "log_in",
    "pluck_session_property",
    "destroy_session",
    "renew_session",
    "get_csrf_token",
    "validate_csrf_token",
)

Call = Callable[..., Any]


class Awaiting:
    """The awaitable functions, each awaited."""

    def __getattr__(self, name: str) -> Call:
        async def call(*arguments: Any, **options: Any) -> Any:
            return await getattr(server_session, name)(*arguments, **options)

        return lambda *arguments, **options: asyncio.run(call(*arguments, **options))


@pytest.fixture(autouse=True)
def sessions(monkeypatch: pytest.MonkeyPatch) -> Sessions:
    """What the functions serve."""
    monkeypatch.setattr(_sessions, "_configured", None)
    return configure()


@pytest.fixture(params=[Awaiting(), sync], ids=["awaitable", "blocking"])
def api(request: pytest.FixtureRequest) -> Any:
    return request.param


def cookie_of(response: Response) -> str | None:
    """The session's cookie as a browser would send it, after this response."""
    pairs = [value.partition(";")[0] for value in response.headers.getlist("set-cookie")]
    ours = [pair for pair in pairs if pair.startswith("session=")]
    assert len(ours) <= 1
    return ours[0] if ours and ours[0] != "session=" else None


@dataclasses.dataclass
class Tab:
    """A browser's tab: one request after another, each with a response, given in one of the carrier's forms."""

    sessions: Sessions
    form: str
    cookie: str | None = None
    response: Response = dataclasses.field(default_factory=Response)

    def open(self) -> tuple[Any, ...]:
        """Begin a request and return the arguments that are its carrier."""
        self.cookie = self._received()
        self.response = Response()
        scope = scope_of(cookie=self.cookie)
        self._request = AsgiRequest(scope)
        match self.form:
            case "nothing, under a middleware":
                current.set(self._request)
                self.sessions.exchange(self._request).serve()
                return ()
            case "request, response":
                return scope, self.response
            case "a framework's request, response":
                return Request(scope), self.response
            case "context of req and res":
                return (SimpleNamespace(req=scope, res=self.response),)
            case "context of request and response":
                return (SimpleNamespace(request=Request(scope), response=self.response),)
            case _:
                raise AssertionError(self.form)

    def _received(self) -> str | None:
        if current.get() is not None:
            # What a middleware does when the response starts.
            self.sessions.exchange(self._request).write_headers(headers_of(self.response))
        if "set-cookie" not in self.response.headers:
            return self.cookie
        return cookie_of(self.response)


FORMS = (
    "nothing, under a middleware",
    "request, response",
    "a framework's request, response",
    "context of req and res",
    "context of request and response",
)


@pytest.fixture(params=FORMS)
def tab(request: pytest.FixtureRequest, sessions: Sessions) -> Iterator[Tab]:
    token = current.set(None)
    yield Tab(sessions, request.param)
    current.reset(token)


# --- every function, in both colours, with every form of the carrier


def test_every_function_works_with_every_form_of_the_carrier(api, tab):
    assert api.get_session_data(*tab.open()) == {}
    assert api.is_alive(*tab.open()) is False
    assert api.set_session_data(*tab.open(), {"a": 1, "flash": "welcome"}) is True
    assert api.get_session_data(*tab.open()) == {"a": 1, "flash": "welcome"}
    assert api.get_session_data(*tab.open(), touch=False) == {"a": 1, "flash": "welcome"}
    assert api.is_alive(*tab.open()) is True
    assert api.update_session_data(*tab.open(), lambda data: data.update(a=data["a"] + 1)) is True
    assert api.pluck_session_property(*tab.open(), "flash") == "welcome"
    assert api.pluck_session_property(*tab.open(), "flash") is None
    assert api.get_session_data(*tab.open()) == {"a": 2}

    first = tab.cookie
    assert api.renew_session(*tab.open(), data={"b": 3}) is True
    assert api.get_session_data(*tab.open()) == {"a": 2, "b": 3}
    assert tab.cookie != first

    token = api.get_csrf_token(*tab.open())
    assert api.validate_csrf_token(*tab.open(), token) is True
    form = api.get_csrf_token(*tab.open(), scope=("POST", "/transfer"))
    assert api.validate_csrf_token(*tab.open(), form, scope=("POST", "/transfer")) is True
    assert api.validate_csrf_token(*tab.open(), form) is False

    renewed = tab.cookie
    assert api.replace_session_data(*tab.open(), {"form": {}}, in_place=True) is True
    assert api.get_session_data(*tab.open()) == {"form": {}}
    assert tab.cookie == renewed
    assert api.validate_csrf_token(*tab.open(), token) is True
    assert api.replace_session_data(*tab.open(), {"user": "ada"}) is True
    assert api.get_session_data(*tab.open()) == {"user": "ada"}
    assert tab.cookie != renewed
    assert api.validate_csrf_token(*tab.open(), token) is False

    assert api.log_in(*tab.open(), "ada", {"user": "ada"}) is True
    assert api.log_in(*tab.open(), "ada") is True
    assert api.get_session_data(*tab.open()) == {}
    assert len(api.sessions_of("ada")) == 1
    last = tab.cookie
    assert last is not None
    assert api.destroy_session(*tab.open()) is True
    tab.open()
    assert tab.cookie is None
    assert api.get_session_data(scope_of(cookie=last)) == {}
    assert api.is_alive(scope_of(cookie=last)) is False


@pytest.mark.parametrize(
    "name,arguments,options,answer",
    [
        ("get_session_data", (), {}, {"a": 1}),
        ("get_session_data", (), {"touch": False}, {"a": 1}),
        ("is_alive", (), {}, True),
        ("set_session_data", ({"b": 2},), {}, True),
        ("update_session_data", (lambda data: data.update(a=data["a"] + 1),), {}, True),
        ("replace_session_data", ({"b": 2},), {"in_place": True}, True),
        ("pluck_session_property", ("a",), {}, 1),
        ("destroy_session", (), {}, True),
        ("validate_csrf_token", ("token",), {}, False),
    ],
)
def test_a_request_alone_will_do_wherever_no_cookie_has_to_be_set(api, name, arguments, options, answer):
    response = Response()
    api.set_session_data(scope_of(), response, {"a": 1})
    cookie = cookie_of(response)
    assert getattr(api, name)(scope_of(cookie=cookie), *arguments, **options) == answer
    assert len(api.get_csrf_token(scope_of(cookie=cookie), Response())) == 70


@pytest.mark.parametrize(
    "name,arguments,options",
    [
        ("set_session_data", ({"a": 1},), {}),
        ("update_session_data", (lambda data: data.update(a=1),), {}),
        ("replace_session_data", ({"a": 1},), {}),
        ("replace_session_data", ({"a": 1},), {"in_place": True}),
        ("log_in", ("ada",), {}),
        ("renew_session", (), {"data": {"a": 1}}),
        ("get_csrf_token", (), {}),
    ],
)
def test_what_needs_a_cookie_and_has_no_response_is_refused_and_says_what_to_give(
    api, sessions, name, arguments, options
):
    with pytest.raises(
        NoResponseError, match=r"pass the response after the request, or let the application serve sessions"
    ):
        getattr(api, name)(scope_of(), *arguments, **options)
    assert isinstance(sessions.store, MemorySessionStore)
    assert sessions.store.stats().sessions == 0


def test_the_functions_of_one_request_are_one_session_and_set_one_cookie(api, sessions):
    scope, response = scope_of(), Response()
    assert api.set_session_data(scope, response, {"a": 1}) is True
    assert api.renew_session(scope, response) is True
    assert api.log_in(scope, response, "ada", {"b": 2}) is True
    assert api.set_session_data(scope, {"c": 3}) is True
    assert api.get_session_data(scope) == {"b": 2, "c": 3}
    assert api.get_session_data(scope_of(cookie=cookie_of(response))) == {"b": 2, "c": 3}


def test_both_colours_have_the_same_functions_with_the_same_arguments_in_the_same_forms():
    names = set(sync.__all__) - {"configure", "open_session", "OpenedSession"}
    assert set(server_session.__all__) > names > set(FUNCTIONS)
    for name in names:
        awaiting, blocking = getattr(server_session, name), getattr(sync, name)
        assert inspect.iscoroutinefunction(awaiting)
        assert not inspect.iscoroutinefunction(blocking)
        assert inspect.signature(awaiting).parameters == inspect.signature(blocking).parameters
        forms = [[str(inspect.signature(form)) for form in get_overloads(one)] for one in (awaiting, blocking)]
        assert forms[0] == forms[1]
        assert f"`server_session.{name}`" in inspect.getdoc(blocking)


# --- what is given in the wrong place


NEEDED = {
    "set_session_data": "data",
    "update_session_data": "change",
    "replace_session_data": "data",
    "log_in": "owner",
    "pluck_session_property": "name",
    "validate_csrf_token": "token",
}


@pytest.mark.parametrize("name,last", NEEDED.items())
def test_without_its_last_argument_a_function_says_what_it_needs(api, name, last):
    with pytest.raises(CarrierError, match=rf"^{name} needs its {last} as the last argument$"):
        getattr(api, name)()


@pytest.mark.parametrize("name,last", NEEDED.items())
@pytest.mark.parametrize(
    "carrier,kind",
    [
        ((scope_of(),), "dict"),
        ((Request(scope_of()),), "Request"),
        ((scope_of(), Response()), "Response"),
        ((SimpleNamespace(req=scope_of(), res=Response()),), "SimpleNamespace"),
        ((SimpleNamespace(request=scope_of(), response=Response()),), "SimpleNamespace"),
    ],
)
def test_a_carrier_in_the_last_argument_s_place_is_a_type_error_that_says_so(api, name, last, carrier, kind):
    with pytest.raises(CarrierError) as caught:
        getattr(api, name)(*carrier)
    assert isinstance(caught.value, TypeError)
    assert str(caught.value) == (
        f"{name} takes its {last} after the request; "
        f"the last argument is '{kind}', which is a request, a response or a context"
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_no_carrier_is_a_type_error_that_says_what_was_given_and_what_can_be(api, name):
    last = ("ada",) if NEEDED.get(name) in ("owner", "name", "token") else ({},) if name in NEEDED else ()
    for carrier in ((5,), (scope_of(), 5), (None,), ([],)):
        with pytest.raises(CarrierError, match=rf"^{name} takes a request .*; '\w+' is none of these.*ASGI scope"):
            getattr(api, name)(*carrier, *last)
    with pytest.raises(CarrierError, match=r"^object has no headers .* response object after the request "):
        getattr(api, name)(scope_of(), object(), *last)
    with pytest.raises(CarrierError, match=r"^3 arguments for a request"):
        getattr(api, name)(scope_of(), Response(), Response(), *last)
    with pytest.raises(
        CarrierError, match=r"^no request is being served here: give the request, or let the application serve"
    ):
        getattr(api, name)(*last)


def test_an_owner_that_is_a_number_is_told_to_be_text(api):
    with pytest.raises(CarrierError, match=r"\(the owner as text, str\(user\.id\)\); 'int' is none of these"):
        api.log_in(scope_of(), 17, {"user": 17})


def test_data_where_the_response_belongs_is_refused_for_it_is_a_keyword_there(api):
    with pytest.raises(CarrierError, match="dict has no headers"):
        api.renew_session(scope_of(), {"a": 1})


@pytest.mark.parametrize(
    "name,keyword", [("set_session_data", "data"), ("log_in", "owner"), ("validate_csrf_token", "token")]
)
def test_what_goes_by_its_place_is_no_keyword(api, name, keyword):
    with pytest.raises(TypeError, match=keyword):
        getattr(api, name)(scope_of(), **{keyword: "x"})


@pytest.mark.parametrize("name", ["set_session_data", "replace_session_data"])
@pytest.mark.parametrize("data", [None, 5, "text", b"", [("a", 1)], ("a", 1), {"a"}])
def test_data_that_is_no_dict_is_a_type_error_that_names_the_function_and_the_type(api, name, data):
    with pytest.raises(TypeError, match=f"^{name} takes the data as a dict, not '{type(data).__name__}'"):
        getattr(api, name)(scope_of(), Response(), data)


@pytest.mark.parametrize("data", [[1], [], 0, "", False])
def test_data_of_the_other_functions_is_a_dict_too(api, data):
    kind = type(data).__name__
    with pytest.raises(TypeError, match=f"^renew_session takes the data as a dict, not '{kind}'"):
        api.renew_session(scope_of(), Response(), data=data)
    with pytest.raises(TypeError, match=f"^log_in takes the data as a dict, not '{kind}'"):
        api.log_in(scope_of(), Response(), "ada", data)


def test_any_mapping_is_data(api):
    for data in ({"a": 1}, MappingProxyType({"a": 1})):
        scope, response = scope_of(), Response()
        assert api.set_session_data(scope, response, data) is True
        assert api.get_session_data(scope) == {"a": 1}


@pytest.mark.parametrize("change", [None, 5, "text", {"a": 1}, [1]])
def test_a_change_that_cannot_be_called_is_a_type_error_that_says_so(api, change):
    with pytest.raises(TypeError, match=f"takes a function of the data, not '{type(change).__name__}'"):
        api.update_session_data(scope_of(), Response(), change)


@pytest.mark.parametrize("name", [None, 5, b"a", ["a"], {"a": 1}])
def test_a_name_that_is_no_text_is_a_type_error_that_says_so(api, name):
    with pytest.raises(TypeError, match=f"takes the name of a key, not '{type(name).__name__}'"):
        api.pluck_session_property(scope_of(), Response(), name)


def test_a_response_behind_the_owner_is_no_data(api):
    with pytest.raises(
        CarrierError, match=r"^log_in takes its owner after the request; the last argument is 'Response'"
    ):
        api.log_in(scope_of(), "ada", Response())


def test_data_without_an_owner_is_no_log_in(api, sessions):
    with pytest.raises(TypeError, match=r"^log_in takes the owner's name or id as text, not 'dict'"):
        api.log_in(scope_of(), Response(), {"user": "ada"})
    assert isinstance(sessions.store, MemorySessionStore)
    assert sessions.store.stats().sessions == 0


# --- what the functions promise


def test_what_asks_without_a_touch_leaves_the_idle_clock_as_it_is(api):
    clock = Clock()
    store = Watched(MemorySessionStore(max_age=100, clock=clock))
    configure(session_store=store, clock=clock)
    response = Response()
    api.log_in(scope_of(), response, "ada", {"user": "ada"})
    cookie = cookie_of(response)
    clock.advance(61)
    store.calls.clear()
    assert api.get_session_data(scope_of(cookie=cookie), touch=False) == {"user": "ada"}
    assert api.is_alive(scope_of(cookie=cookie)) is True
    # Nor is it noted that the session was seen.
    assert store.calls == ["look", "look"]
    assert api.sessions_of("ada")[0].last_seen.timestamp() == clock() - 61
    clock.advance(40)
    assert api.is_alive(scope_of(cookie=cookie)) is False


def test_a_touch_that_is_neither_true_nor_false_is_a_type_error_that_says_so(api):
    with pytest.raises(TypeError, match=r"^get_session_data takes touch as True or False, not 'NoneType'$"):
        api.get_session_data(scope_of(), touch=None)


def test_a_replacing_in_a_place_that_is_neither_true_nor_false_is_a_type_error_for_it_would_keep_the_old_cookie(api):
    with pytest.raises(TypeError, match=r"^replace_session_data takes in_place as True or False, not 'str'$"):
        api.replace_session_data(scope_of(), Response(), {"user": "ada"}, in_place="false")


def test_what_is_returned_is_the_caller_s_own(api):
    scope, response = scope_of(), Response()
    api.set_session_data(scope, response, {"cart": [1]})
    data = api.get_session_data(scope)
    data["cart"].append(2)
    data["b"] = 1
    assert api.get_session_data(scope) == {"cart": [1]}


def test_a_change_that_runs_a_loop_of_its_own_may_await_the_functions(api, tmp_path):
    sessions, scope, response = configure(session_store=FileSessionStore(tmp_path)), scope_of(), Response()
    seen: list[Any] = []

    async def look() -> None:
        seen.append(await sessions.get_session_data(scope_of()))

    def change(data: dict[str, Any]) -> None:
        data["a"] = 1
        asyncio.run(look())

    assert api.update_session_data(scope, response, change) is True
    assert api.get_session_data(scope) == {"a": 1}
    assert seen == [{}]


def test_a_change_that_raises_writes_nothing(api):
    scope, response = scope_of(), Response()
    api.set_session_data(scope, response, {"a": 1})

    def change(data: dict[str, Any]) -> None:
        data["a"] = 2
        raise LookupError("no such article")

    with pytest.raises(LookupError, match="no such article"):
        api.update_session_data(scope, change)
    assert api.get_session_data(scope) == {"a": 1}


def test_a_value_that_cannot_be_kept_is_refused_by_its_key_before_anything_is_written(api):
    scope, response = scope_of(), Response()
    api.set_session_data(scope, response, {"a": 1})
    calls: list[Callable[[], Any]] = [
        lambda: api.set_session_data(scope, {"a": 2, "bad": object()}),
        lambda: api.update_session_data(scope, lambda data: data.update(a=2, bad=object())),
        lambda: api.replace_session_data(scope, response, {"a": 2, "bad": object()}),
        lambda: api.replace_session_data(scope, {"a": 2, "bad": object()}, in_place=True),
        lambda: api.log_in(scope, response, "ada", {"a": 2, "bad": object()}),
        lambda: api.renew_session(scope, response, data={"a": 2, "bad": object()}),
    ]
    for call in calls:
        with pytest.raises(SerializationError, match="'bad'"):
            call()
    assert api.get_session_data(scope) == {"a": 1}
    assert api.get_session_data(scope_of(cookie=cookie_of(response))) == {"a": 1}


def test_all_that_write_say_false_over_a_session_that_ended(api):
    scope, response = scope_of(), Response()
    api.set_session_data(scope, response, {"a": 1})
    late, answer = scope_of(cookie=cookie_of(response)), Response()
    assert api.get_session_data(late) == {"a": 1}
    assert api.destroy_session(scope_of(cookie=cookie_of(response))) is True
    assert api.set_session_data(late, answer, {"b": 1}) is False
    assert api.update_session_data(late, answer, lambda data: data.update(b=1)) is False
    assert api.replace_session_data(late, answer, {"b": 1}, in_place=True) is False
    assert api.renew_session(late, answer, data={"b": 1}) is False
    assert api.pluck_session_property(late, answer, "a") is None
    assert api.destroy_session(late, answer) is False
    assert len(api.get_csrf_token(late, answer)) == 70
    assert "set-cookie" not in answer.headers


def test_to_renew_or_to_end_what_is_not_there_is_false_and_founds_nothing(api):
    response = Response()
    assert api.renew_session(scope_of(), response) is False
    assert api.destroy_session(scope_of(), response) is False
    assert "set-cookie" not in response.headers


def test_a_store_that_fails_is_an_error_in_every_function(api, sessions, monkeypatch):
    response = Response()
    api.set_session_data(scope_of(), response, {"a": 1})
    token = api.get_csrf_token(scope_of(cookie=cookie_of(response)))

    async def down(*_: Any) -> None:
        raise StoreError("no answer within 2 s")

    for method in ("get", "set", "merge", "destroy"):
        monkeypatch.setattr(sessions.store, method, down)
    last = {"update_session_data": (lambda data: data.update(a=2),), "validate_csrf_token": (token,)}
    for name in FUNCTIONS:
        rest = last.get(name) or {"data": ({},), "owner": ("ada",), "name": ("a",)}.get(NEEDED.get(name, ""), ())
        with pytest.raises(StoreError, match="no answer"):
            getattr(api, name)(scope_of(cookie=cookie_of(response)), Response(), *rest)


# --- data of a type of the application's


class CartDict(TypedDict):
    items: list[int]
    total: float


@dataclasses.dataclass
class CartData:
    items: list[int]
    total: float


class CartStruct(msgspec.Struct):
    items: list[int]
    total: float


@attrs.define
class CartAttrs:
    items: list[int]
    total: float


class CartModel(pydantic.BaseModel):
    items: list[int]
    total: float


@pytest.mark.parametrize("as_type", [CartDict, CartData, CartStruct, CartAttrs, CartModel])
def test_data_comes_back_as_a_checked_type_of_the_application_s(api, as_type):
    scope, response = scope_of(), Response()
    api.set_session_data(scope, response, {"items": [1, 2], "total": 9.5, "cart": {"items": [3], "total": 1.0}})
    assert api.get_session_data(scope, as_type=as_type) == as_type(items=[1, 2], total=9.5)
    assert api.pluck_session_property(scope, "cart", as_type=as_type) == as_type(items=[3], total=1.0)
    assert api.pluck_session_property(scope, "cart", as_type=as_type) is None


@pytest.mark.parametrize("as_type", [CartDict, CartData, CartStruct, CartAttrs, CartModel])
def test_data_that_does_not_fit_is_an_error_that_names_the_field(api, as_type):
    scope, response = scope_of(), Response()
    api.set_session_data(scope, response, {"items": [1, "two"], "total": 9.5})
    with pytest.raises(DataTypeError, match=r"^items\[1\]: "):
        api.get_session_data(scope, as_type=as_type)
    assert api.get_session_data(scope) == {"items": [1, "two"], "total": 9.5}


# --- CSRF tokens


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_whatever_a_client_sends_as_a_token_is_false_and_never_an_error_and_founds_nothing(token):
    # The fixtures live as long as the test, so what it serves is of its own.
    sessions = Sessions(session_store=STORE)
    response = Response()
    for scope in (scope_of(), scope_of(cookie="session=" + "A" * 64)):
        assert sessions.sync.validate_csrf_token(scope, response, token) is False
        assert asyncio.run(sessions.validate_csrf_token(scope, token)) is False
    assert STORE.stats().sessions == 0
    assert "set-cookie" not in response.headers


STORE = MemorySessionStore()


def test_a_token_for_one_form_is_for_that_method_and_path_alone(api):
    scope, response = scope_of(), Response()
    token = api.get_csrf_token(scope, response, scope=("POST", "/transfer"))
    assert api.validate_csrf_token(scope, token, scope=("POST", "/transfer")) is True
    for other in (None, ("PUT", "/transfer"), ("POST", "/transfer/"), ("POST", "/"), ("", "")):
        assert api.validate_csrf_token(scope, token, scope=other) is False


def test_a_token_is_fresh_at_each_call_and_all_hold_in_every_tab(api):
    scope, response = scope_of(), Response()
    tokens = {api.get_csrf_token(scope, response) for _ in range(5)}
    assert len(tokens) == 5
    tab = scope_of(cookie=cookie_of(response))
    assert all(api.validate_csrf_token(tab, token) for token in tokens)


@pytest.mark.parametrize(
    "token", [{"type": "http", "headers": []}, {"REQUEST_METHOD": "GET", "wsgi.url_scheme": "http"}]
)
def test_a_token_that_looks_like_a_request_is_false_as_any_json_value_is(token):
    assert Sessions().sync.validate_csrf_token(scope_of(), token) is False


def test_a_response_given_to_one_call_does_not_answer_the_next_that_has_none():
    sessions, scope, response = Sessions(), scope_of(), Response()
    assert sessions.sync.get_session_data(scope, response) == {}
    with pytest.raises(NoResponseError):
        sessions.sync.set_session_data(scope, {"a": 1})
