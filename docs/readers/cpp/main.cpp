// predict BUNDLE [--digest HEX] [--rung NAME] [MODALITY=FILE ...]
//
// FILE holds what Pipeline::preprocess takes, without a header. A modality that is left out is absent.
// Writes the outputs as one JSON object, for one of classes also the label. Exit code 2: what is wrong, on stderr.
#include <algorithm>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>

#include "pipeline.hpp"

using namespace edgefuse;

namespace {

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error("'" + path + "' cannot be opened");
  return {std::istreambuf_iterator<char>(file), {}};
}

json answer(const Values& outputs, const json& model) {
  json result = json::object();
  for (const auto& [name, tensor] : outputs) {
    std::vector<float> numbers(tensor.data.size() / sizeof(float));
    std::memcpy(numbers.data(), tensor.data.data(), tensor.data.size());
    result["outputs"][name] = numbers;
    for (const auto& output : model.at("outputs"))
      if (output.at("name") == name && output.at("type") == "classes")
        result["label"] = output.at("labels").at(std::max_element(numbers.begin(), numbers.end()) - numbers.begin());
  }
  return result;
}

int predict(int count, char** arguments) {
  std::string path, digest, rung;
  std::vector<std::pair<std::string, std::string>> inputs;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    const auto equals = argument.find('=');
    if ((argument == "--digest" || argument == "--rung") && i + 1 < count) {
      (argument == "--rung" ? rung : digest) = arguments[++i];
    } else if (path.empty()) {
      path = argument;
    } else if (equals != std::string::npos) {
      inputs.emplace_back(argument.substr(0, equals), contents(argument.substr(equals + 1)));
    } else {
      throw Error("'" + argument + "' is not MODALITY=FILE");
    }
  }
  if (path.empty()) throw Error("usage: predict BUNDLE [--digest HEX] [--rung NAME] [MODALITY=FILE ...]");
  const Bundle bundle(path, digest);
  Pipeline pipeline(bundle, rung);
  Values values;
  std::vector<std::string> present;
  for (auto& [name, raw] : inputs) {
    values.merge(pipeline.preprocess(name, std::move(raw)));
    present.push_back(name);
  }
  std::cout << answer(pipeline.run(values, present), bundle.manifest().at("model")).dump() << "\n";
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    return predict(count, arguments);
  } catch (const Error& error) {
    std::cerr << "error: " << error.what() << ".\n";
  } catch (const json::exception& error) {
    std::cerr << "error: manifest.json is not a valid manifest: " << error.what() << ".\n";
  }
  return 2;
}
