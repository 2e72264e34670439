#include "bundle.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <set>

#include "sha256.hpp"

namespace edgefuse {
namespace {

constexpr std::uint64_t kMaxFiles = 4096, kMaxFile = (1ull << 31) - 1, kMaxManifest = 4 << 20;
constexpr std::uint64_t kMaxTotal = 4'000'000'000;
constexpr int kMajor = 2, kOldMajor = 1;

// The fields of every kind of object in a manifest. What is not here is refused: a newer writer may mean it to matter.
const std::map<std::string, std::set<std::string>> kFields = {
    {"Manifest", {"schema", "target", "model", "stages", "candidates", "rungs", "default_rung", "golden", "files",
                  "provenance", "streamed"}},
    {"File", {"path", "sha256", "size_bytes"}},
    {"Provenance", {"weights_sha256", "data_sha256", "recipe_sha256", "tools"}},
    {"Model", {"name", "modalities", "outputs", "metric"}},
    {"Modality", {"name", "tensors", "preprocess", "optional", "length"}},
    {"Tensor", {"name", "dtype", "shape"}},
    {"Stage", {"name", "role", "inputs", "outputs", "modality"}},
    {"StageInput", {"tensor", "source"}},
    {"StageOutput", {"tensor", "kind", "initial"}},
    {"Source", {"kind", "owner", "tensor"}},
    {"Candidate", {"id", "stage", "target", "backend", "accelerator", "scheme", "exclude", "file", "sha256",
                   "size_bytes", "inputs", "outputs", "opset", "tolerance", "pruning", "plan"}},
    {"Binding", {"port", "tensor", "dtype", "shape"}},
    {"Rung", {"name", "objective", "candidates", "accuracy", "drop_ci95", "within_budget", "size_bytes", "figures",
              "cost", "outputs"}},
};

void check_fields(const json& object, const std::string& kind) {
  if (!object.is_object()) throw Error("manifest.json has something else where a " + kind + " should be");
  for (const auto& [key, value] : object.items())
    if (!kFields.at(kind).count(key))
      throw Error("manifest.json has the unknown field '" + key + "' in a " + kind + ": update this reader");
}

template <typename Check>
void each(const json& list, const std::string& kind, Check&& check) {
  if (!list.is_array()) throw Error("manifest.json has no list of " + kind + "s where one should be");
  for (const auto& item : list) {
    check_fields(item, kind);
    check(item);
  }
}

void check_manifest(const json& manifest) {
  const auto nothing = [](const json&) {};
  check_fields(manifest, "Manifest");
  check_fields(manifest.at("model"), "Model");
  check_fields(manifest.at("provenance"), "Provenance");
  each(manifest.at("files"), "File", nothing);
  each(manifest.at("rungs"), "Rung", nothing);
  each(manifest.at("model").at("modalities"), "Modality",
       [&](const json& modality) { each(modality.at("tensors"), "Tensor", nothing); });
  each(manifest.at("stages"), "Stage", [&](const json& stage) {
    each(stage.at("inputs"), "StageInput", [](const json& port) {
      check_fields(port.at("tensor"), "Tensor");
      check_fields(port.at("source"), "Source");
    });
    each(stage.at("outputs"), "StageOutput", [](const json& port) { check_fields(port.at("tensor"), "Tensor"); });
  });
  each(manifest.at("candidates"), "Candidate", [&](const json& candidate) {
    each(candidate.at("inputs"), "Binding", nothing);
    each(candidate.at("outputs"), "Binding", nothing);
  });
}

// Parses strict JSON: a second value under a key of the same object is refused, since readers disagree on which counts.
json parse(const std::string& text) {
  std::vector<std::set<std::string>> open;
  const auto callback = [&](int, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::object_start) open.emplace_back();
    if (event == json::parse_event_t::object_end) open.pop_back();
    if (event == json::parse_event_t::key && !open.back().insert(value.get<std::string>()).second)
      throw Error("manifest.json has the key '" + value.get<std::string>() + "' twice in one object");
    return true;
  };
  return json::parse(text, callback);
}

// Returns the major version of the manifest, one that this reader knows.
int checked_version(const json& manifest) {
  const int major = manifest.at("schema").at(0).get<int>(), minor = manifest.at("schema").at(1).get<int>();
  if (major != kMajor && major != kOldMajor)
    throw Error("manifest.json is of schema " + std::to_string(major) + "." + std::to_string(minor) +
                ", and this reader knows " + std::to_string(kOldMajor) + ".x and " + std::to_string(kMajor) + ".x");
  return major;
}

// Turns a manifest of schema 1 into what it means in schema 2, as far as a reader acts on it: the one backend of the
// bundle becomes that of each of its files. Its schemes are objects, which nothing here looks into.
void upgrade(json& manifest) {
  const auto backend = manifest.at("backend").get<std::string>();
  manifest.erase("backend");
  for (auto& candidate : manifest.at("candidates")) {
    for (const auto* newer : {"backend", "accelerator", "exclude"})
      if (candidate.contains(newer))
        throw Error("manifest.json has the field '" + std::string(newer) + "' in a Candidate, which schema 1 has not");
    candidate["backend"] = backend;
  }
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

// Checks names, sizes and counts of what lies in the storage, before anything of it is read.
void check_listing(const Storage& storage) {
  std::set<std::string> seen;
  std::uint64_t total = 0;
  if (storage.sizes().size() > kMaxFiles) throw Error("the bundle has more than 4096 files");
  for (const auto& [path, size] : storage.sizes()) {
    check_path(path);
    if (!seen.insert(lower(path)).second) throw Error("the bundle has two files that differ by case only: " + path);
    if (size > kMaxFile) throw Error("the file '" + path + "' is too large");
    total += size;
  }
  if (total > kMaxTotal) throw Error("the bundle is too large");
}

}  // namespace

void check_path(const std::string& path) {
  static const std::set<std::string> devices = {"con", "prn", "aux", "nul"};
  const auto refuse = [&] { throw Error("the bundle has a path that is not allowed: '" + path + "'"); };
  if (path.empty() || path.size() > 200) refuse();
  std::size_t begin = 0, segments = 0;
  while (begin <= path.size()) {
    const auto end = std::min(path.find('/', begin), path.size());
    const auto segment = path.substr(begin, end - begin);
    const auto stem = lower(segment.substr(0, segment.find('.')));
    const bool port = stem.size() == 4 && (stem.rfind("com", 0) == 0 || stem.rfind("lpt", 0) == 0) && isdigit(stem[3]);
    if (segment.empty() || !(isalnum((unsigned char)segment[0]) || segment[0] == '_') || segment.back() == '.' ||
        devices.count(stem) || port || ++segments > 8)
      refuse();
    for (const unsigned char c : segment)
      if (c >= 128 || !(isalnum(c) || std::string_view("_.+=@,-").find(char(c)) != std::string_view::npos)) refuse();
    begin = end + 1;
  }
}

bool ends_with(const std::string& path, const std::string& suffix) {
  return path.size() >= suffix.size() && lower(path.substr(path.size() - suffix.size())) == suffix;
}

Bundle::Bundle(const std::string& path, const std::string& digest) {
  struct stat found;
  if (stat(path.c_str(), &found) != 0) throw Error("there is no bundle at '" + path + "'");
  storage_ = S_ISDIR(found.st_mode) ? open_folder(path) : open_archive(path);
  check_listing(*storage_);
  for (const auto* name : {"manifest.json", "manifest.sha256"})
    if (!storage_->sizes().count(name)) throw Error(std::string("the bundle has no ") + name);
  if (storage_->sizes().at("manifest.json") > kMaxManifest) throw Error("manifest.json is too large");
  const auto text = storage_->read("manifest.json");
  digest_ = sha256(text);
  if (!digest.empty() && digest != digest_) throw Error("the bundle is not the one that was pinned: it is " + digest_);
  if (storage_->read("manifest.sha256") != digest_ + "  manifest.json\n")
    throw Error("manifest.json is damaged: its SHA-256 is not the one in manifest.sha256");
  try {
    manifest_ = parse(text);
    if (checked_version(manifest_) == kOldMajor) upgrade(manifest_);
    check_manifest(manifest_);
    for (const auto& file : manifest_.at("files"))
      files_[file.at("path").get<std::string>()] = {file.at("sha256").get<std::string>(),
                                                    file.at("size_bytes").get<std::uint64_t>()};
  } catch (const json::exception& error) {
    throw Error(std::string("manifest.json is not a valid manifest: ") + error.what());
  }
  for (const auto& [name, size] : storage_->sizes())
    if (name != "manifest.json" && name != "manifest.sha256" && !files_.count(name))
      throw Error("the bundle has the file '" + name + "', which its manifest does not list");
  for (const auto& [name, about] : files_)
    if (!storage_->sizes().count(name) || storage_->sizes().at(name) != about.second)
      throw Error("the file '" + name + "' is missing or of another size than the manifest says");
}

std::string Bundle::read(const std::string& path) const {
  const auto listed = files_.find(path);
  if (listed == files_.end()) throw Error("the manifest lists no file '" + path + "'");
  auto data = storage_->read(path);
  if (data.size() != listed->second.second || sha256(data) != listed->second.first)
    throw Error("the file '" + path + "' is damaged: its SHA-256 is not the one in the manifest");
  if (ends_with(path, ".onnx")) refuse_external_data(path, data);
  return data;
}

}  // namespace edgefuse
