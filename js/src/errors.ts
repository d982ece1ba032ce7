/** What every error of this package is. */
export class SessionError extends Error {
    override readonly name = this.constructor.name;
}
/** A value that would not come out equal and of the same type. Nothing was written. */
export class SerializationError extends SessionError {}
/** `updateSessionData` ran out of time among other writers. Nothing was written; calling again is safe. */
export class ConflictError extends SessionError {}
/** A cookie must be set, and there is no response to set it on, or its headers were sent. Nothing was written. */
export class NoResponseError extends SessionError {}
/** Another site sent this request, so the browser withheld the session's cookie. Nothing was written. */
export class CookieWithheldError extends SessionError {}
/** Redis did not answer within its limit of time, or answered with an error; a write was made or not made. */
export class StoreError extends SessionError {}
/** A stored record that cannot be read: damaged, encrypted, or written by something else. */
export class RecordError extends StoreError {}
