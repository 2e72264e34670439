// A bundle (docs/bundle-format.md) on disk: its files, checked against their hashes, and its manifest.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace edgefuse {

using json = nlohmann::json;

// What is wrong with a bundle or an input, in one sentence.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Where files come from. `read` returns the bytes of a file, which are nothing that is trusted yet.
class Storage {
 public:
  virtual ~Storage() = default;
  const std::map<std::string, std::uint64_t>& sizes() const { return sizes_; }
  virtual std::string read(const std::string& path) const = 0;

 protected:
  std::map<std::string, std::uint64_t> sizes_;  // by path
};

std::unique_ptr<Storage> open_folder(const std::string& path);   // folder.cpp
std::unique_ptr<Storage> open_archive(const std::string& path);  // archive.cpp

// Throws unless `path` is one that a bundle may use for a file of its own.
void check_path(const std::string& path);

// Whether a path ends with a lower-case suffix, such as `.onnx`, in either case: that is the format of a stage file.
bool ends_with(const std::string& path, const std::string& suffix);

// Throws if an ONNX model refers to data outside of itself or to a compiled engine, or is malformed (onnx_guard.cpp).
void refuse_external_data(const std::string& name, const std::string& model);

class Bundle {
 public:
  // Opens a folder or an `.edgefuse` archive. `digest`, unless empty, pins the bundle: only that one is opened.
  explicit Bundle(const std::string& path, const std::string& digest = "");

  // In schema 2: where the bundle is of schema 1, what it means there.
  const json& manifest() const { return manifest_; }
  const std::string& digest() const { return digest_; }

  // Returns the bytes of a listed file after comparing them with the manifest. Use these bytes, not the path.
  std::string read(const std::string& path) const;

 private:
  std::unique_ptr<Storage> storage_;
  std::string digest_;
  json manifest_;
  std::map<std::string, std::pair<std::string, std::uint64_t>> files_;  // path -> (SHA-256, size)
};

}  // namespace edgefuse
