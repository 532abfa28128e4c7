// Asks into which project chosen videos go, and whether they become a film.

import { ask, ID, path } from "./api.js";
import { dialog } from "./dialogs.js";
import { el } from "./dom.js";
import { t } from "./texts.js";

const PAGE = 200;

/**
 * Resolves to null, or to `{ project, name, add(videos, progress) }`: `add` puts them there in
 * order and returns `{ failed: [[id, reason]], master, problem: [name, reason] }`, the last of the
 * film. What is there already is used.
 */
export async function addToProject(count, others) {
  let projects = [];
  try {
    ({ projects } = await ask("GET", "/api/projects"));
  } catch {
    // An id can be typed all the same; what is wrong is told when it is used.
  }
  return new Promise((resolve) => {
    let chosen = null;
    const names = el("datalist", { id: "project-names" }, ...projects.map((value) => el("option", { value })));
    const project = el("input", { name: "project", list: "project-names", required: true, maxlength: 128, pattern: ID, title: t("selection.project_hint"), autocomplete: "off", spellcheck: "false", value: projects[0] ?? "" });
    const name = el("input", { name: "name", maxlength: 200, autocomplete: "off", placeholder: t("masters.name_hint") });
    const form = el(
      "form.project-body",
      {},
      others ? el("p.muted", {}, t("selection.only_videos", { count: others })) : null,
      el("label", {}, el("span", {}, t("masters.project")), project),
      names,
      el("p.muted", {}, t("selection.project_hint")),
      el("label", {}, el("span", {}, t("selection.film_name")), name),
      el("div.buttons", {}, el("button.primary", {}, t("selection.add_count", { count }))),
    );
    const element = dialog("project", t("selection.add_title"), form, { onclose: () => resolve(chosen) });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const [id, title] = [project.value.trim(), name.value.trim()];
      chosen = { project: id, name: title, add: (videos, progress) => add(id, title, videos, progress) };
      element.close();
    });
    project.select();
  });
}

async function add(project, name, videos, progress) {
  const failed = [];
  const shots = [];
  let known;
  try {
    known = await assets(project);
  } catch (error) {
    return { failed: videos.map(({ id }) => [id, error.message]) };
  }
  for (const [place, { id }] of videos.entries()) {
    try {
      const body = { generation_id: id };
      shots.push(known.get(id) ?? (await ask("POST", path("projects", project, "assets"), { body })).asset_id);
    } catch (error) {
      failed.push([id, error.message]);
    }
    progress(place + 1);
  }
  // A film that lacks a shot is not the one that is wanted.
  if (!name || failed.length) return { failed };
  try {
    return { failed, master: await ask("POST", path("projects", project, "master-videos"), { body: { name, shots } }) };
  } catch (error) {
    return { failed, problem: [name, error.message] };
  }
}

/** Ids of the project's assets, by that of their generation. */
export async function assets(project) {
  const found = new Map();
  let cursor = null;
  do {
    const page = await ask("GET", path("projects", project, "assets"), { query: { cursor, limit: PAGE } });
    for (const asset of page.assets) if (asset.generation_id) found.set(asset.generation_id, asset.asset_id);
    cursor = page.next_cursor;
  } while (cursor !== null);
  return found;
}
