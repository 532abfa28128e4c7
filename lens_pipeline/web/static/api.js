// Asks the app's API.

import { problemText, t } from "./texts.js";

/** The API answered with an error: its stable `code`, and words, in the page's language if there are any. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The JSON of the answer, null if it has none. Throws ApiError. */
export async function ask(method, path, { query = {}, body = undefined, signal = undefined } = {}) {
  const url = new URL(path, location.origin);
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  let answer;
  try {
    answer = await fetch(url, {
      method,
      signal,
      headers: {
        Accept: "application/json",
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
      },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "offline", t("error.offline"));
  }
  // The login has run out: the page itself leads there.
  if (answer.status === 401) location.reload();
  const text = await answer.text();
  let content = null;
  try {
    content = text ? JSON.parse(text) : null;
  } catch {
    throw new ApiError(answer.status, "no_json", t("error.offline"));
  }
  if (!answer.ok) {
    const code = content?.error ?? "unknown";
    throw new ApiError(answer.status, code, problemText(code) ?? content?.message ?? code);
  }
  return content;
}

// Ids in one address, and their characters: the server limits both.
const MOST_IDS = 200;
const MOST_CHARACTERS = 6000;

/** The entries of the list `name` with these ids, or of them, in as few requests as there is room for. */
export async function askByIds(path, name, ids, parameter = "ids") {
  const found = [];
  for (let start = 0, end; start < ids.length; start = end) {
    let characters = 0;
    for (end = start; end < ids.length && end - start < MOST_IDS && characters < MOST_CHARACTERS; end++) {
      characters += ids[end].length + 1;
    }
    const query = { [parameter]: ids.slice(start, end).join(), limit: MOST_IDS, cursor: null };
    do {
      const page = await ask("GET", path, { query });
      found.push(...page[name]);
      query.cursor = page.next_cursor;
    } while (query.cursor);
  }
  return found;
}

/** Ids of projects and of what is in them, as the `pattern` of a field. */
export const ID = "[A-Za-z0-9][A-Za-z0-9_.\\-]{0,127}";

const wholeId = new RegExp(`^${ID}$`);
export const isId = (text) => wholeId.test(text);

/** Whether that entry of a list has failed. */
export const hasFailed = ({ status }) => status === "failed" || status === "dead";

/** A path of the API with each part encoded: ids are strangers' text. */
export const path = (...parts) => `/api/${parts.map(encodeURIComponent).join("/")}`;

/** An address in Dagster's UI; null for people who have no use of it. */
export function dagster(dagsterPath) {
  const { dagsterPort, dagsterUrl } = document.body.dataset;
  if (!dagsterPort || !dagsterPath) return null;
  if (dagsterUrl) return `${dagsterUrl.replace(/\/+$/, "")}/${dagsterPath.replace(/^\/+/, "")}`;
  return new URL(dagsterPath, `${location.protocol}//${location.hostname}:${dagsterPort}`).href;
}
