#include "pipeline.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace edgefuse {

std::size_t width(const std::string& dtype) {
  if (dtype == "float32" || dtype == "int32") return 4;
  if (dtype == "uint8") return 1;
  throw Error("the manifest has the unknown type '" + dtype + "'");
}

std::size_t elements(const std::vector<std::int64_t>& shape) {
  std::size_t count = 1;
  for (const auto size : shape) {
    if (size < 0 || count > (1u << 28)) throw Error("a tensor has an impossible shape");
    count *= std::size_t(size);
  }
  return count;
}

std::map<std::string, Opener>& openers() {
  static std::map<std::string, Opener> all;
  return all;
}

namespace {

Tensor zeros(const std::string& dtype, std::vector<std::int64_t> shape) {
  std::string data(elements(shape) * width(dtype), '\0');
  return {dtype, std::move(shape), std::move(data)};
}

// The type and the largest shape of a tensor of the manifest.
Tensor largest(const json& tensor) {
  std::vector<std::int64_t> shape;
  for (const auto& dim : tensor.at("shape"))
    shape.push_back(dim.is_number() ? dim.get<std::int64_t>()
                    : dim.at("dim") == "bounded" ? dim.at("max").get<std::int64_t>()
                                                 : dim.at("sizes").back().get<std::int64_t>());
  return zeros(tensor.value("dtype", "float32"), std::move(shape));
}

// The size that `wanted` steps take in a dimension of the manifest: fixed, any up to a maximum, or one of a few.
std::int64_t fitting(const json& dim, std::int64_t wanted) {
  if (dim.is_number()) return dim.get<std::int64_t>();
  if (dim.at("dim") == "bounded") return std::clamp<std::int64_t>(wanted, 1, dim.at("max").get<std::int64_t>());
  for (const auto& size : dim.at("sizes"))
    if (size.get<std::int64_t>() >= wanted) return size.get<std::int64_t>();
  return dim.at("sizes").back().get<std::int64_t>();
}

// Copies a tensor into the first corner of zeros of a larger shape, as a variable input runs in a file of fixed shapes.
Tensor padded(const Tensor& value, const std::vector<std::int64_t>& shape) {
  auto result = zeros(value.dtype, shape);
  const auto last = shape.size() - 1;
  const auto row = std::size_t(value.shape[last]) * width(value.dtype);
  for (std::size_t from = 0, index = 0; from < value.data.size(); from += row, ++index) {
    std::size_t rest = index, to = 0, stride = 1;
    for (std::size_t axis = last; axis-- > 0;) {
      to += rest % std::size_t(value.shape[axis]) * stride;
      rest /= std::size_t(value.shape[axis]);
      stride *= std::size_t(shape[axis]);
    }
    std::memcpy(&result.data[to * std::size_t(shape[last]) * width(value.dtype)], &value.data[from], row);
  }
  return result;
}

std::string key_of(const json& source) {
  const auto kind = source.at("kind").get<std::string>();
  const auto owner = source.value("owner", ""), tensor = source.value("tensor", "");
  if (kind == "modality") return owner + "." + tensor;
  if (kind == "length") return owner + ".length";
  if (kind == "stage") return "/" + owner + "." + tensor;
  if (kind == "present") return "present";
  if (kind == "state") return "~" + owner + "." + tensor;
  if (kind == "token") throw Error("the model makes one token after the other, which this reader does not");
  throw Error("the manifest has a source of the unknown kind '" + kind + "'");
}

const json& named(const json& list, const std::string& field, const std::string& name, const std::string& what) {
  for (const auto& item : list)
    if (item.at(field) == name) return item;
  throw Error("this bundle has no " + what + " '" + name + "'");
}

std::string bytes_of(std::int32_t value) { return {reinterpret_cast<const char*>(&value), sizeof value}; }

}  // namespace

Pipeline::Pipeline(const Bundle& bundle, const std::string& rung, int threads) try
    : model_(bundle.manifest().at("model")) {
  const auto& manifest = bundle.manifest();
  const auto name = rung.empty() ? manifest.at("default_rung").get<std::string>() : rung;
  const auto& chosen = named(manifest.at("rungs"), "name", name, "rung").at("candidates");
  for (const auto& stage : manifest.at("stages"))
    stages_.push_back(open(bundle, stage, chosen.at(stage.at("name").get<std::string>()).get<std::string>(), threads));
} catch (const json::exception& error) {
  throw Error(std::string("manifest.json is not a valid manifest: ") + error.what());
}

Pipeline::Stage Pipeline::open(const Bundle& bundle, const json& stage, const std::string& candidate_id, int threads) {
  const auto& candidate = named(bundle.manifest().at("candidates"), "id", candidate_id, "candidate");
  const auto port = [](const json& spec, const json& bindings, const std::string& key) {
    const auto name = spec.at("tensor").at("name").get<std::string>();
    const auto& found = named(bindings, "port", name, "binding for the port");
    const Binding binding = {name, found.at("tensor").get<std::string>(), found.at("dtype").get<std::string>(),
                             found.at("shape").get<std::vector<std::int64_t>>()};
    return Port{name, key, largest(spec.at("tensor")), binding, spec.value("kind", "feature")};
  };
  const auto name = stage.at("name").get<std::string>();
  std::vector<Port> inputs, outputs;
  for (const auto& spec : stage.at("inputs"))
    inputs.push_back(port(spec, candidate.at("inputs"), key_of(spec.at("source"))));
  for (const auto& spec : stage.at("outputs"))
    outputs.push_back(port(spec, candidate.at("outputs"), ""));
  for (auto& output : outputs) output.key = (output.kind == "state" ? "~" : "/") + name + "." + output.name;
  const auto backend = candidate.at("backend").get<std::string>(), file = candidate.at("file").get<std::string>();
  const auto opener = openers().find(backend);
  if (opener == openers().end()) {
    std::string known;
    for (const auto& [other, _] : openers()) known += (known.empty() ? "" : ", ") + other;
    throw Error("the stage '" + name + "' needs the backend '" + backend +
                "', which this program was not built with: it has " + known);
  }
  if (!ends_with(file, opener->second.suffix))
    throw Error("the backend '" + backend + "' does not open '" + file + "': its files end with " +
                opener->second.suffix);
  const auto bindings = [](const std::vector<Port>& ports) {
    std::vector<Binding> found;
    for (const auto& one : ports) found.push_back(one.binding);
    return found;
  };
  auto opened = opener->second.open(bundle.read(file), bindings(inputs), bindings(outputs), threads);
  return {name, stage.value("modality", ""), std::move(inputs), std::move(outputs), std::move(opened)};
}

Values Pipeline::preprocess(const std::string& name, std::string raw) const {
  const auto& modality = named(model_.at("modalities"), "name", name, "modality");
  const auto& spec = modality.at("tensors").at(0);
  const auto& steps = modality.at("preprocess");
  const auto kind = steps.at("kind").get<std::string>();
  auto tensor = largest(spec);
  const bool sequence = kind == "audio" || kind == "text" || kind == "video";
  if (modality.at("tensors").size() != 1) throw Error("'" + name + "' has several tensors: pass them to run()");
  const auto step = sequence ? tensor.data.size() / std::max(std::size_t(tensor.shape.at(1)), std::size_t(1))
                             : width(tensor.dtype);  // bytes
  if (step == 0 || raw.size() % step || raw.empty() || (!sequence && raw.size() != tensor.data.size()))
    throw Error("'" + name + "' has " + std::to_string(raw.size()) + " bytes, and it takes " +
                std::to_string(tensor.data.size()) + " of " + tensor.dtype);
  if (kind == "audio")
    for (std::size_t at = 0; at < raw.size(); at += 4) {
      float sample;
      std::memcpy(&sample, &raw[at], 4);
      if (!std::isfinite(sample)) throw Error("'" + name + "' holds a sample that is NaN or infinite");
    }
  auto steps_given = std::int64_t(raw.size() / step);
  if (sequence) {  // [1, steps], or [1, frames, height, width, channels]
    steps_given = std::min(steps_given, tensor.shape[1]);
    tensor.shape[1] = fitting(spec.at("shape").at(1), steps_given);
    std::string filled;
    const auto pad = bytes_of(kind == "text" ? steps.value("pad_id", 0) : 0);  // +0.0 is all zero bits, too
    while (filled.size() < std::size_t(tensor.shape[1]) * step) filled += pad;
    filled.resize(std::size_t(tensor.shape[1]) * step);
    filled.replace(0, std::size_t(steps_given) * step, raw, 0, std::size_t(steps_given) * step);
    raw = std::move(filled);
  } else if (modality.value("length", false)) {
    steps_given = tensor.shape[1];
  }
  tensor.data = std::move(raw);
  Values values = {{name + "." + spec.at("name").get<std::string>(), std::move(tensor)}};
  if (modality.value("length", false)) values[name + ".length"] = {"int32", {1}, bytes_of(std::int32_t(steps_given))};
  return values;
}

Values Pipeline::run(const Values& values, const std::vector<std::string>& present) {
  const auto here = [&](const std::string& name) {
    return std::find(present.begin(), present.end(), name) != present.end();
  };
  Values pool = values;
  std::vector<float> mask;
  for (const auto& modality : model_.at("modalities")) {
    const auto name = modality.at("name").get<std::string>();
    if (!here(name) && !modality.value("optional", false)) throw Error("the modality '" + name + "' is required");
    mask.push_back(here(name) ? 1.0f : 0.0f);
    if (here(name)) continue;
    for (const auto& tensor : modality.at("tensors"))
      pool[name + "." + tensor.at("name").get<std::string>()] = largest(tensor);
    if (modality.value("length", false)) pool[name + ".length"] = {"int32", {1}, bytes_of(0)};
  }
  if (present.empty()) throw Error("no modality is present");
  pool["present"] = {"float32", {1, std::int64_t(mask.size())},
                     std::string(reinterpret_cast<const char*>(mask.data()), mask.size() * 4)};
  Values results;
  for (auto& stage : stages_) {
    const bool skipped = !stage.modality.empty() && !here(stage.modality);
    for (const auto& input : stage.inputs)
      if (input.key[0] == '~') pool[input.key] = states_.count(input.key) ? states_.at(input.key) : input.zeros;
    auto outputs = skipped ? Values() : compute(stage, pool);
    for (const auto& output : stage.outputs) {
      auto value = skipped ? zeros("float32", output.zeros.shape) : std::move(outputs.at(output.name));
      if (output.kind == "result" && !skipped) results[output.name] = value;
      if (output.kind == "state" && !skipped) states_[output.key] = value;
      pool["/" + stage.name + "." + output.name] = std::move(value);
    }
  }
  return results;
}

Values Pipeline::compute(Stage& stage, const Values& pool) {
  Values feeds, results;
  for (const auto& port : stage.inputs) {
    const auto found = pool.find(port.key);
    if (found == pool.end()) throw Error("the stage '" + stage.name + "' needs '" + port.key + "', which is missing");
    const auto& value = found->second;
    auto shape = port.binding.shape;
    bool fits = shape.size() == value.shape.size() && value.dtype == port.binding.dtype;
    for (std::size_t axis = 0; fits && axis < shape.size(); ++axis) {
      if (shape[axis] < 0) shape[axis] = value.shape[axis];
      fits = value.shape[axis] == shape[axis] || (axis > 0 && value.shape[axis] < shape[axis]);
    }
    if (!fits) throw Error("'" + port.key + "' does not fit the input '" + port.name + "' of '" + stage.name + "'");
    feeds[port.binding.tensor] = shape == value.shape ? value : padded(value, shape);
  }
  auto answers = stage.file->run(feeds);
  for (const auto& port : stage.outputs) {
    const auto found = answers.find(port.binding.tensor);
    if (found == answers.end()) throw Error("the file of the stage '" + stage.name + "' gave no '" + port.name + "'");
    results[port.name] = std::move(found->second);
  }
  return results;
}

}  // namespace edgefuse
