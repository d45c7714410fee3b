// Requests to the server: a response, or its error as a sentence.
import { byId, visible } from "./text.js";

export const errorText = ({ what, got, do: remedy }) => `${what}${got ? ` (${got})` : ""}. To fix it: ${remedy}.`;

export async function call(method, path, body) {
  let response;
  try {
    response = await fetch(path, {
      method, headers: body ? { "content-type": "application/json" } : {}, body: body && JSON.stringify(body),
    });
  } catch {
    throw new Error("The server does not respond. Is `taughtby serve` still running?");
  }
  if (response.ok) return response;
  const error = await response.json().catch(() => ({ what: `The server answered ${response.status}`, do: "try again" }));
  throw new Error(errorText(error));
}

export const get = async (path) => (await call("GET", path)).json();

export function showError(error) {
  byId("error").textContent = error ? visible(error.message) : "";
  byId("error").hidden = !error;
  if (error) byId("error").scrollIntoView({ block: "nearest" });
}
