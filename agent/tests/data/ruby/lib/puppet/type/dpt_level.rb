# frozen_string_literal: true

Puppet::Type.newtype(:dpt_level) do
  @doc = 'A level that is kept in a file of JSON.'

  ensurable

  newparam(:name, namevar: true)

  newparam(:store) do
    desc 'The file.'
    validate do |value|
      raise ArgumentError, "store must be a whole path, not '#{value}'" unless value.start_with?('/')
    end
  end

  newproperty(:value) do
    validate do |value|
      raise ArgumentError, "Value must be a whole number, not #{value}" unless value.to_s.match?(/\A\d+\z/)
    end
    munge { |value| Integer(value) }

    # What only the change itself knows.
    def change_to_s(current, wanted)
      "value went from #{current} to #{wanted} by #{provider.steps} steps"
    end
  end

  newproperty(:marks, array_matching: :all)

  newproperty(:secret)

  newproperty(:mood) do
    newvalues(:calm, :rough)

    def insync?(current)
      raise Puppet::Error, 'nobody can tell the mood' if current == 'unknown'

      super
    end
  end

  autorequire(:file) { File.dirname(self[:store]) }
  autosubscribe(:file) { "#{self[:store]}.conf" }
  autobefore(:notify) { "after #{self[:name]}" }
  autonotify(:dpt_level) { "heard #{self[:name]}" }

  def refresh
    provider.note('refresh')
  end
end
