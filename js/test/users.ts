// Read by the type checker beside the types of Next.js and redis, and never run.
import type { NextApiRequest, NextApiResponse, GetServerSidePropsContext } from "next";
import type { NextRequest, NextResponse } from "next/server";
import { cookies } from "next/headers";
import { createClient } from "redis";
import { configure, getSessionData, setSessionData, updateSessionData, replaceSessionData, logIn, pluckSessionProperty, renewSession, destroySession, getCSRFToken, validateCSRFToken, isAlive, Sessions } from "server-session";

export async function use(req: NextApiRequest, res: NextApiResponse, context: GetServerSidePropsContext, request: NextRequest, response: NextResponse) {
    configure({ redis: createClient(), origin: "https://shop.example", cookie: { sameSite: "strict" } });
    new Sessions({ redis: "redis://x" });
    const { user } = await getSessionData<{ user?: string }>(context);
    const data = await getSessionData(req, res, { touch: false });
    data["x"] satisfies unknown;
    await setSessionData(req, res, { a: user });
    await setSessionData(context, { a: 1 });
    await setSessionData(request, response, { a: 1 });
    await updateSessionData(await cookies(), (held) => { held["n"] = 1; });
    await replaceSessionData(await cookies(), { a: 1 }, { inPlace: true });
    await logIn(req, res, "ada", { user: "ada" });
    const text: string | null = await pluckSessionProperty<string>(context, "a");
    await renewSession(context, { a: text });
    await renewSession(req, res);
    await destroySession(await cookies());
    const token: string = await getCSRFToken(req, res, { scope: "POST /pay" });
    const good: boolean = await validateCSRFToken(req, res, token);
    await isAlive(request);
    // @ts-expect-error no data
    await setSessionData(req);
    // @ts-expect-error no number
    await setSessionData(req, res, 5);
    return good;
}
