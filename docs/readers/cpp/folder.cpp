// The folder: regular files and folders only, and no link is followed below the folder itself.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bundle.hpp"

namespace edgefuse {
namespace {

struct Descriptor {
  int number;
  explicit Descriptor(int opened, const std::string& what) : number(opened) {
    if (number < 0) throw Error("'" + what + "' cannot be opened, or is a link");
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { close(number); }
};

class Folder : public Storage {
 public:
  explicit Folder(const std::string& path) : root_(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC), path) {
    list(root_.number, "", 0);
  }

  std::string read(const std::string& path) const override {
    int parent = dup(root_.number);
    std::size_t begin = 0;
    for (auto end = path.find('/'); end != std::string::npos; begin = end + 1, end = path.find('/', begin)) {
      const Descriptor outer(parent, path);
      parent = openat(outer.number, path.substr(begin, end - begin).c_str(),
                      O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    }
    const Descriptor folder(parent, path);
    const Descriptor file(openat(folder.number, path.substr(begin).c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK |
                                 O_CLOEXEC), path);
    std::string data(sizes_.at(path) + 1, '\0');  // one more, to see that it did not grow
    std::size_t got = 0;
    for (ssize_t part; (part = ::read(file.number, data.data() + got, data.size() - got)) != 0; got += part)
      if (part < 0) throw Error("'" + path + "' cannot be read");
    data.resize(got);
    return data;
  }

 private:
  void list(int folder, const std::string& prefix, int depth) {
    if (depth > 8) throw Error("the folders of the bundle are nested too deeply");
    DIR* entries = fdopendir(dup(folder));
    if (!entries) throw Error("the folder '" + prefix + "' cannot be listed");
    const std::unique_ptr<DIR, int (*)(DIR*)> closing(entries, closedir);
    while (const dirent* entry = readdir(entries)) {
      const std::string name = entry->d_name;
      if (name == "." || name == "..") continue;
      struct stat about;
      if (fstatat(folder, name.c_str(), &about, AT_SYMLINK_NOFOLLOW) != 0) throw Error("'" + name + "' vanished");
      if (S_ISREG(about.st_mode)) {
        sizes_[prefix + name] = std::uint64_t(about.st_size);
      } else if (S_ISDIR(about.st_mode)) {
        const Descriptor inner(openat(folder, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), name);
        list(inner.number, prefix + name + "/", depth + 1);
      } else {
        throw Error("the bundle has something that is no regular file: '" + prefix + name + "'");
      }
      if (sizes_.size() > 4096) throw Error("the bundle has more than 4096 files");
    }
  }

  Descriptor root_;
};

}  // namespace

std::unique_ptr<Storage> open_folder(const std::string& path) { return std::make_unique<Folder>(path); }

}  // namespace edgefuse
